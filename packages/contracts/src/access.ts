import { z } from 'zod';

/** Who a caller is. `service` is one of Tally's own processes. */
export const Role = z.enum(['producer', 'viewer', 'analyst', 'admin', 'service']);
export type Role = z.infer<typeof Role>;

/**
 * What a procedure needs of its caller.
 * record: write usage; read: see usage; define: make custom metrics; admin: change what others see;
 * internal: only Tally's own services.
 */
export const Access = z.enum(['record', 'read', 'define', 'admin', 'internal']);
export type Access = z.infer<typeof Access>;

const GRANTS: Record<Role, readonly Access[]> = {
  producer: ['record'],
  viewer: ['read'],
  analyst: ['read', 'define'],
  admin: ['record', 'read', 'define', 'admin', 'internal'],
  service: ['record', 'read', 'admin', 'internal'],
};

/** Whether a role may call a procedure that declares `access`. */
export function grants(role: Role, access: Access): boolean {
  return GRANTS[role].includes(access);
}
