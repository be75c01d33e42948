export { freePort } from '../../../infra/local/ports.mjs';
export { assertBuilt } from './built.ts';
export {
  callOf,
  type HostileRequest,
  hostileInputs,
  hostileRequests,
  inputsWith,
  soundInput,
  stringSchemas,
  UNSTORABLE_TEXTS,
} from './hostile-inputs.ts';
export { OPEN_PATHS, pathsWithoutKey, servedAndStated } from './paths.ts';
export { type Relay, startRelay } from './relay.ts';
export { runsOf } from './runs.ts';
export { type ServiceProcess, startServiceProcess } from './service-process.ts';
export { type FreshStore, freshDatabase, freshRedis, serverUrls } from './stores.ts';
export { until } from './until.ts';
