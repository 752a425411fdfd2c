"""oneconvert: an OpenNebula datastore driver that stores every image in the format its datastore speaks."""
