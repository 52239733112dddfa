"""Everything that runs on Ray: preparing tables, feeding workers, training. Nothing else in the package imports it."""
