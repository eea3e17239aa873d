"""Studies of estimation rates: each draws data at growing sizes, fits, and measures how errors fall."""
