"""vCenter: its API, and the files and disks on the datastores of its hosts."""
