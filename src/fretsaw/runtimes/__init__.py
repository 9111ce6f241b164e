"""What runs a model's networks for a session: one file for each way, each an implementation of `fretsaw.types.ClickModel`. Nothing else knows which it is."""
