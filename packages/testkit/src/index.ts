export { type FreshStore, freshDatabase, freshRedis, serverUrls } from './stores.ts';
