"""Control loops over the store, one noun a module; `loop.Controllers` runs them all."""
