"""The portal: a private event loop on a thread of its own, by which plain code uses async code."""
