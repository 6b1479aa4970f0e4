"""The state of this process: L1, the loads in flight, the fences that decide which results are stored."""
