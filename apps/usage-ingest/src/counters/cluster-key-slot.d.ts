declare module 'cluster-key-slot' {
  /** Returns the slot of a Redis Cluster that holds a key. */
  export default function slotOf(key: string): number;
}
