"""All that knows disk images: formats, inspection, qemu-img."""
