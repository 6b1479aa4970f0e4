"""Ways over from other libraries: their names on tiercache's own classes."""
