"""oneconvert under unmodified OpenNebula scripts: see test_conformance.py."""
