"""Published networks behind one seam, each with its key map."""
