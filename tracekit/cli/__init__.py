"""The command line: each verb parses, calls one public function, prints."""
