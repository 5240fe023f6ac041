"""Local or cloud? Each request of an app gets the side that suits it, or that is not failing."""
