"""Tests with hosts that labs run today, of which a stand-in takes the place."""
