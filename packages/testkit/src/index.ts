export { type ServiceProcess, startServiceProcess } from './service-process.ts';
export { type FreshStore, freshDatabase, freshRedis, serverUrls } from './stores.ts';
