"""The ``oneconvert`` command."""
