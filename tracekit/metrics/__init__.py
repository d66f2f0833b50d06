"""Every number about a trace: SQL files over the view `ops`, and the snapshot made of them."""
