"""How far into its file the tables of an image point, one module per format."""
