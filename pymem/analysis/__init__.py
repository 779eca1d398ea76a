"""Questions about the program itself: its types, its waste, its troubles, and what changing a type would do."""
