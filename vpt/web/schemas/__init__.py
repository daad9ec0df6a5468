"""The shapes of bodies and answers, by resource."""
