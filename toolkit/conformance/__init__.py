"""The kit that proves a strategy exact: tiny models, generators, properties, saboteurs."""
