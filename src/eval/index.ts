/** What a policy writes, scored and compared. */

export * from './replies';
