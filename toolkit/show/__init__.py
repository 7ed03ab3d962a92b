"""Pictures of recorded decodings, drawn from their rows alone: a page, files, the terminal."""
