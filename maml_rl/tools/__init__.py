"""What knows neither reinforcement learning nor learning at all; imports nothing of ours."""
