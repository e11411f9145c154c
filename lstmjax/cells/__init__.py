"""One step of time, a file for each kind of layer."""
