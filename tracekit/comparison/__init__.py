"""How closely two traces match, and what moved between them."""
