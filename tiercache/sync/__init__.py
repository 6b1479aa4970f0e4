"""The sync face of a cache: every operation for plain (blocking) code, by a portal to a private event loop."""
