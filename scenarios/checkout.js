// Customers of the shop: nine of ten buy one thing (journey `checkout`: products, cart, checkout), one looks around (`browse`).
// The convention of scenarios, and the environment that they get, are described in aftershock.js.

import { journeys, options, setup } from './aftershock.js';

export { options, setup };
export default journeys({ checkout: { weight: 9, run: checkout }, browse: { weight: 1, run: browse } });

function checkout(customer) {
  const products = customer.get('products', '/products');
  if (!products.ok) return;
  const { sku } = customer.pick(products.json('products'));
  const cart = customer.post('cart', '/carts', { items: [{ sku, quantity: 1 }] });
  if (!cart.ok) return;
  const order = { cart_id: cart.json('cart_id'), customer: `customer-${customer.iteration}` };
  customer.post('checkout', '/checkout', order, { 'Idempotency-Key': customer.key() });
}

function browse(customer) {
  const products = customer.get('products', '/products');
  if (!products.ok) return;
  customer.get('product', `/products/${customer.pick(products.json('products')).sku}`);
}
