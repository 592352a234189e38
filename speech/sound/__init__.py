"""Audio in and out, and where in it somebody speaks."""
