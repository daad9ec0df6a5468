"""The documents about the API, and the page that shows them."""
