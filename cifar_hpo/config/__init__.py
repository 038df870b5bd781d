"""Every key: those of the app, those of a sweep, and how a value is held against its key."""
