"""The operations of the engine: lookups that load, stores, changes of state, invalidations, explanations."""
