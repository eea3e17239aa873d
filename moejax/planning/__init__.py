"""What a step will cost, before anybody pays for the devices."""
