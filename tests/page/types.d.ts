// Types of what the page and the server say to each other, made of the server's OpenAPI document; the page's own files name them without an import.

import type { components, paths } from "../../.venv/.npm/openapi";

type Operation<R extends keyof paths, M extends Method> = NonNullable<paths[R][M]>;
type Parameters<O> = O extends { parameters: { path?: infer P; query?: infer Q } } ? Given<P> & Given<Q> : never;
type Given<T> = [NonNullable<T>] extends [never] ? unknown : NonNullable<T>;
type Content<T> = T extends { content: { "application/json": infer Body } } ? Body : never;
type Method = "get" | "post" | "put" | "patch" | "delete";

declare global {
  type Schemas = components["schemas"];
  /** Routes that know a method. */
  type Route<M extends Method> = { [R in keyof paths]: [Operation<R, M>] extends [never] ? never : R }[keyof paths];
  /** The values that a route needs: those in its path, and those of its query. */
  type At<R extends keyof paths, M extends Method> = Parameters<Operation<R, M>>;
  /** The body that is sent. */
  type Sent<R extends keyof paths, M extends Method> = Operation<R, M> extends { requestBody?: infer Body } ? Content<NonNullable<Body>> : never;
  /** The body of an answer that is no refusal. */
  type Reply<R extends keyof paths, M extends Method> =
    Operation<R, M> extends { responses: infer All } ? { [S in keyof All]: S extends 200 | 201 | 202 ? Content<All[S]> : never }[keyof All] : never;
}
