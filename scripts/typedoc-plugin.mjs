// For the API reference (`npm run api`). Types are shown as they are written in the sources; those of zod schemas key by key,
// with what `.describe` and `.default` say. A public name without a docstring is a warning. Sources are named, not linked.
import ts from 'typescript';
import { Application, Comment, CommentTag, Converter, ReflectionKind } from 'typedoc';

/** `z.output<typeof schema>`, `keyof typeof table`: a type that is taken from values is written out. */
const isInferred = (type) => /\btypeof /.test(type.getText());

/** The argument of the last `.name(...)` in a chain of calls such as `z.int().default(4).describe('completions a prompt')`. */
function argumentOf(chain, name) {
  for (let node = chain; ts.isCallExpression(node) && ts.isPropertyAccessExpression(node.expression);) {
    if (node.expression.name.text === name) return node.arguments[0];
    node = node.expression.expression;
  }
  return undefined;
}

/** What a schema says of one key; undefined when it says nothing. */
function keyComment(schema) {
  const [text, value] = [argumentOf(schema, 'describe'), argumentOf(schema, 'default')];
  const parts = text === undefined ? [] : [{ kind: 'text', text: text.text ?? text.getText() }];
  if (value !== undefined) {
    parts.push({ kind: 'text', text: parts.length > 0 ? '; default ' : 'default ' });
    parts.push({ kind: 'code', text: `\`${value.getText()}\`` });
  }
  return parts.length > 0 ? new Comment(parts) : undefined;
}

/** A destructured parameter is called what its `@param` calls it, else `options`; `@param key` is then `@param options.key`. */
function nameOptions({ parameters = [], comment }, declaration) {
  const names = parameters.map(({ name }) => name);
  const place = names.indexOf('__namedParameters');
  if (place < 0) return;
  const { elements } = declaration.parameters[place].name;
  const keys = elements.map(({ name, propertyName }) => (propertyName ?? name).getText());
  const tags = (comment?.blockTags ?? []).filter(
    ({ tag, name }) => tag === '@param' && !names.includes(name),
  );
  if (tags.every(({ name }) => keys.includes(name))) parameters[place].name = 'options';
  for (const tag of tags) if (keys.includes(tag.name)) tag.name = `options.${tag.name}`;
}

/** `Source: ...`, the last lines of a docstring, is a section of its own and not the end of the tag above it. */
function partSource({ comment }) {
  const content = comment?.blockTags.at(-1)?.content ?? [];
  const place = content.findIndex(({ text }) => text.includes('\nSource: '));
  if (place < 0) return;
  const [before, after] = content[place].text.split('\nSource: ');
  const source = [{ kind: 'text', text: after }, ...content.splice(place + 1)];
  content[place] = { kind: 'text', text: before };
  comment.blockTags.push(new CommentTag('@source', source));
}

const isDocumented = (reflection) =>
  reflection.isReference() ||
  reflection.hasComment() ||
  reflection.signatures?.some((one) => one.hasComment());

export function load(app) {
  const { converter, logger } = app;
  const convert = converter.convertType.bind(converter);
  converter.convertType = (context, type, written) =>
    convert(context, written === undefined || isInferred(written) ? type : written);

  converter.on(Converter.EVENT_CREATE_DECLARATION, (context, reflection) => {
    const [declaration] = context.getSymbolFromReflection(reflection)?.declarations ?? [];
    if (declaration === undefined) return;
    if (ts.isTypeAliasDeclaration(declaration) && isInferred(declaration.type)) {
      reflection.comment ??= new Comment();
      reflection.comment.modifierTags.add('@useDeclaredType');
    }
    if (reflection.kindOf(ReflectionKind.Property) && ts.isPropertyAssignment(declaration))
      reflection.comment ??= keyComment(declaration.initializer);
  });
  converter.on(Converter.EVENT_CREATE_TYPE_PARAMETER, (context, parameter) => {
    const [declaration] = context.getSymbolFromReflection(parameter)?.declarations ?? [];
    if (declaration?.constraint === undefined) return;
    context.project.removeTypeReflections(parameter.type);
    parameter.type = converter.convertType(context, parameter.type, declaration.constraint);
  });
  converter.on(Converter.EVENT_CREATE_SIGNATURE, (_context, signature, declaration) => {
    nameOptions(signature, declaration);
    partSource(signature);
  });
  converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    for (const reflection of Object.values(project.reflections))
      for (const source of reflection.sources ?? []) delete source.url;
  });
  app.on(Application.EVENT_VALIDATE_PROJECT, (project) => {
    for (const { name, children } of project.children)
      for (const child of children)
        if (!isDocumented(child)) {
          const [source] = child.sources ?? [];
          logger.warn(`${name}.${child.name} has no docstring (${source?.fileName}:${source?.line}).`);
        }
  });
}
