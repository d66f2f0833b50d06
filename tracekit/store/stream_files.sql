-- Which streams use which files, each pair once.
--
-- rank INTEGER, worker INTEGER, uri VARCHAR an object of the stream's ops, or the target of a rename or copy
SELECT rank, worker, uri FROM ops
UNION
SELECT rank, worker, to_uri FROM ops WHERE to_uri IS NOT NULL
