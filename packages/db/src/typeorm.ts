/**
 * The parts of TypeORM that are used at run time, from their files: the package's index takes 130 ms more CPU, at each
 * start of a service (ADR 680).
 */
export { DataSource } from 'typeorm/data-source/DataSource.js';
export { EntitySchema } from 'typeorm/entity-schema/EntitySchema.js';
export { QueryFailedError } from 'typeorm/error/QueryFailedError.js';
export { And } from 'typeorm/find-options/operator/And.js';
export { Between } from 'typeorm/find-options/operator/Between.js';
export { In } from 'typeorm/find-options/operator/In.js';
export { IsNull } from 'typeorm/find-options/operator/IsNull.js';
export { LessThan } from 'typeorm/find-options/operator/LessThan.js';
export { MoreThan } from 'typeorm/find-options/operator/MoreThan.js';
export { MoreThanOrEqual } from 'typeorm/find-options/operator/MoreThanOrEqual.js';
export { Raw } from 'typeorm/find-options/operator/Raw.js';
