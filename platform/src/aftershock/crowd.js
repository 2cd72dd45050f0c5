// A crowd that comes beside the measured customers: more requests than two pods were made for. Nobody measures what it gets.
import http from 'k6/http';

const RATE = Number(__ENV.CROWD_RATE);

export const options = {
  scenarios: {
    crowd: {
      executor: 'constant-arrival-rate',
      rate: Math.max(1, Math.round(RATE)),
      timeUnit: '1s',
      duration: `${Math.round(Number(__ENV.CROWD_SECONDS) * 1000)}ms`,
      preAllocatedVUs: 100, // enough while the shop answers, and a bound when it does not
      maxVUs: 100,
      gracefulStop: '1s',
    },
  },
  systemTags: [],
  noVUConnectionReuse: true, // each of them has a connection of its own, so that new pods get their share
  discardResponseBodies: true,
};

export default function () {
  http.get(__ENV.CROWD_URL, { timeout: '2s' });
}
