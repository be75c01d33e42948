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
export { type ServiceProcess, startServiceProcess } from './service-process.ts';
export { type FreshStore, freshDatabase, freshRedis, serverUrls } from './stores.ts';
