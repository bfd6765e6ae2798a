"""Many pictures, many clips: which clip is made from which picture, and the loop that makes them."""
