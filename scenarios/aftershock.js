// The convention between a k6 scenario and aftershock, in one file. A scenario of your own lies beside this one and reads
//
//     import { journeys, options, setup } from './aftershock.js';
//     export { options, setup };                                   // the schedule and the clock; both are needed
//     export default journeys({
//       checkout: { weight: 9, run: checkout },                    // SLOs name journeys by these keys
//       browse: { weight: 1, run: browse },
//     });
//
//     function browse(customer) {
//       const products = customer.get('products', '/products');    // (step, path)
//       if (!products.ok) return;                                  // an ended journey is not an error of the scenario
//       const one = customer.pick(products.json('products'));      // seeded choice
//       customer.get('product', `/products/${one.sku}`);           // also: customer.request(step, method, path, body, headers)
//     }
//
// Every request is one sample; a journey succeeds if all its requests do. Each request gives up after AFTERSHOCK_TIMEOUT_S and
// carries a W3C traceparent of its own. A request with an `Idempotency-Key` header (`customer.key()` makes one per journey) is
// kept with its key, and with the `order_id` of its answer.
//
// The environment: AFTERSHOCK_TARGET_URL, AFTERSHOCK_RATE (journeys a second), AFTERSHOCK_DURATION_S, AFTERSHOCK_SEED; and, with
// defaults, AFTERSHOCK_RUN (makes keys and trace ids of two runs differ), AFTERSHOCK_ARRIVALS, AFTERSHOCK_TIMEOUT_S,
// AFTERSHOCK_LINGER_S, AFTERSHOCK_VUS. With these four set, `k6 run scenarios/checkout.js` works without aftershock too.

import crypto from 'k6/crypto';
import exec from 'k6/execution';
import http from 'k6/http';

const TARGET = need('AFTERSHOCK_TARGET_URL').replace(/\/$/, '');
const RATE = Number(need('AFTERSHOCK_RATE'));
const DURATION_S = Number(need('AFTERSHOCK_DURATION_S'));
const SEED = Number(need('AFTERSHOCK_SEED'));
const RUN = __ENV.AFTERSHOCK_RUN || String(Date.now());
const ARRIVALS = Number(__ENV.AFTERSHOCK_ARRIVALS || Math.ceil(RATE * DURATION_S - 1e-9));
const TIMEOUT_S = Number(__ENV.AFTERSHOCK_TIMEOUT_S || 2);
const LINGER_S = Number(__ENV.AFTERSHOCK_LINGER_S || 10);
const VUS = Number(__ENV.AFTERSHOCK_VUS || Math.ceil(RATE * 3 * TIMEOUT_S * 1.1) + 10);
const TIMEOUT = `${Math.round(TIMEOUT_S * 1000)}ms`;

// k6's error codes to the names that the shop's spans use too.
const ERRORS = {
  1050: 'timeout', 1101: 'unresolved', 1110: 'blocked', 1111: 'blocked', 1201: 'connection_reset', 1211: 'timeout',
  1212: 'connection_refused', 1220: 'connection_reset',
};

export const options = {
  scenarios: {
    arrivals: {
      executor: 'constant-arrival-rate',
      rate: Math.round(RATE * 1000),
      timeUnit: '1000s',
      duration: `${Math.round(Math.max(1, DURATION_S) * 1000)}ms`, // k6 takes no less; ARRIVALS ends a shorter schedule
      preAllocatedVUs: VUS,
      maxVUs: VUS,
      gracefulStop: `${Math.round(LINGER_S * 1000)}ms`,
    },
  },
  systemTags: [], // k6's own metrics are not used; samples are made here
  noVUConnectionReuse: true, // each journey is another customer, with a connection of its own
  discardResponseBodies: false,
};

// k6 gives the wall clock in whole milliseconds and a monotonic clock in nanoseconds: at a tick of the first, read the second.
export function setup() {
  const last = Date.now();
  let wall = last;
  while (wall === last) wall = Date.now();
  return { offsetMs: wall - exec.instance.currentTestRunDuration };
}

export function journeys(table) {
  const names = Object.keys(table);
  const total = names.reduce((sum, name) => sum + table[name].weight, 0);
  return function (clock) {
    const iteration = exec.scenario.iterationInTest;
    if (iteration >= ARRIVALS) return; // also what k6 starts in the very moment in which the schedule ends
    const customer = new Customer(iteration, clock.offsetMs);
    let left = customer.random() * total;
    customer.journey = names.find((name) => (left -= table[name].weight) < 0) || names[0];
    let failed = null;
    try {
      table[customer.journey].run(customer);
    } catch (error) {
      failed = String(error);
    }
    send('e', iteration, failed);
  };
}

class Customer {
  constructor(iteration, offsetMs) {
    this.iteration = iteration;
    this.offsetMs = offsetMs;
    this.requests = 0;
    this.random = generator(SEED, iteration);
    const started = exec.scenario.startTime * 1000;
    this.intended = started + Math.round((iteration / RATE) * 1e6);
    send('b', iteration, started, this.intended, this.now());
  }

  now() {
    return Math.round((this.offsetMs + exec.instance.currentTestRunDuration) * 1000);
  }

  key() {
    return `${RUN}-${String(this.iteration).padStart(6, '0')}`;
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  get(step, path, headers) {
    return this.request(step, 'GET', path, null, headers);
  }

  post(step, path, body, headers) {
    return this.request(step, 'POST', path, body, headers);
  }

  // An answer: `ok` (it came, and is 2xx or 3xx), `status`, `json(path)`, and k6's own response as `response`.
  request(step, method, path, body, headers) {
    const trace = crypto.md5(`${RUN}/${this.iteration}/${this.requests++}`, 'hex');
    const sent = { traceparent: `00-${trace}-${trace.slice(8, 24)}-01`, ...headers };
    if (body !== null && body !== undefined) sent['Content-Type'] = 'application/json';
    const key = sent['Idempotency-Key'] || null;
    const payload = body === null || body === undefined ? null : JSON.stringify(body);
    const start = exec.instance.currentTestRunDuration;
    const response = http.request(method, TARGET + path, payload, { headers: sent, timeout: TIMEOUT });
    const end = exec.instance.currentTestRunDuration;
    const came = response.status !== 0;
    const ok = came && response.status < 400;
    send(
      's', this.iteration, this.journey, step, this.intended, Math.round((this.offsetMs + start) * 1000),
      Math.round((this.offsetMs + end) * 1000), Math.round((end - start) * 1000), came ? response.status : null,
      came ? null : named(response), key && ok ? field(response, 'order_id') : null, key, trace,
    );
    return { ok, status: response.status, response, json: (name) => response.json(name) };
  }
}

function named(response) {
  if (/\bEOF$/.test(response.error)) return 'connection_reset'; // closed before an answer
  return ERRORS[response.error_code] || response.error || 'error';
}

function field(response, name) {
  try {
    const value = response.json(name);
    return typeof value === 'string' ? value : null;
  } catch {
    return null; // a body that is no JSON has no such field
  }
}

function send(...line) {
  console.log(JSON.stringify(line));
}

function need(name) {
  if (!__ENV[name]) throw new Error(`${name} is not set`);
  return __ENV[name];
}

// mulberry32 by Tommy Ettinger (public domain): one sequence per seed and iteration, whichever VU runs it.
function generator(seed, iteration) {
  let state = (Math.imul(seed | 0, 0x9e3779b1) ^ Math.imul(iteration + 1, 0x85ebca6b)) >>> 0;
  return function () {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
