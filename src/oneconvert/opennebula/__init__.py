"""All that knows OpenNebula: its messages, its results, its installation and its native drivers."""
