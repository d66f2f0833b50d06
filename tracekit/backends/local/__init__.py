"""Local files: through the page cache (`file://`) and around it (`direct://`)."""
