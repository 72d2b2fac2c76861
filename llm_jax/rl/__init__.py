"""What reinforcement learning is made of: advantages, the policy loss as named parts, the algorithms over them."""
