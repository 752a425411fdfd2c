"""Hostile input: what strangers may publish, or write into an image, to hurt a front-end. Each case is made by code."""
