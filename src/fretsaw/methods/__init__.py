"""One file per method; `sam_clicks` first."""
