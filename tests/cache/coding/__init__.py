"""Tests of what makes latents narrower or packs them: rotation, nibbles, axes, what a layer keeps of it."""
