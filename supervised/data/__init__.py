"""Where tasks come from: sinusoids, images, episodes."""
