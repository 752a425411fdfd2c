"""All that moves bytes: sources, checksums, compression, the spool."""
