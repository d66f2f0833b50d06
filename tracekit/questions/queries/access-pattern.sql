-- Are files read in order, in strides or at random?
--
-- stream VARCHAR rank/worker, ops BIGINT that follow another of the same kind, stream and file, sequential_share DOUBLE starts where
-- the last ended, forward_share DOUBLE jumps ahead, backward_share DOUBLE jumps back, same_share DOUBLE reads the same
-- offset again, stride_bytes BIGINT commonest difference of offsets
-- No rows: no stream has two requests with an offset in one file.
SELECT key AS stream, ops, sequential AS sequential_share, forward AS forward_share, backward AS backward_share,
       same AS same_share, stride AS stride_bytes
FROM sequentiality('worker')
ORDER BY ops DESC, stream
LIMIT 20
